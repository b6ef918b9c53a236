"""Tables, figures and the HTML report, from cached results and without torch."""
