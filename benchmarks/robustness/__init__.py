"""How the package holds out: damaged files of every format, and numbers that must not depend on how they are computed."""
