"""The broker over a Django channel layer."""
