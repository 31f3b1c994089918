"""Small faults put into the way the method is wired, one at a time: the tests must find each of them."""
