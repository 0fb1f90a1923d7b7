"""Options of the commands, one module each: no torch is loaded to show them."""
