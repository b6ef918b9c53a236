"""The paper's experiments: models, data, training, runner, plots. Imports the library, never the reverse."""
