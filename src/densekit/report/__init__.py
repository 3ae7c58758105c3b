"""One page that holds all there is to know about a trained classifier."""
