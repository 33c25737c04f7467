"""Episodes as something to see: the shapes of a task's model, where they move, and pictures of them."""
