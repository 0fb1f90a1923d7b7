"""Other reconstructions and restorations to compare with."""
