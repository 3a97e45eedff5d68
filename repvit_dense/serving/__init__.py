"""Serve a model over HTTP: the page, the JSON API, the queue before the model and the guard before both."""
