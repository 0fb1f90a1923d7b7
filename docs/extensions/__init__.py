"""Parts of the documentation site that are made of the package when the site is built."""
