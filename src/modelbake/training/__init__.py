"""Training the boundary regressor on a user's own data: from a file of rows to weights, graph, figures and a plot.

fit (the steps in order), metrics (what is said of the result), plot (the same as a picture), placing (all files or none); and
before that, features (from frames of videos to such a file).
"""
