"""Measurements that are no part of the product and not in its wheel."""
