"""The measurement y = A x + n: Fourier transforms, masks, operators, noise, solvers."""
