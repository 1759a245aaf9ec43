"""Model definitions: (graphdef, params) pairs with a pure `apply`."""
