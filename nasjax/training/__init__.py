"""Networks to trained networks: recipes, steps, populations, the loop."""
