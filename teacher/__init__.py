"""The deep contrastive teacher: tasks, networks, losses, learner, evaluation, checkpoints."""
