"""GPU kernels for the residual stack; `teacher.networks` alone chooses and imports them."""
