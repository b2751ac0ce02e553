"""An application of the site: a shelf of books."""
