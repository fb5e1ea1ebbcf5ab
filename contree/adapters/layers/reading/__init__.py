"""An image's files read without a guest: listings, contents, archives, comparisons."""
