"""Files, one module a format; `kspace` opens k-space of any of them."""
