"""The quality of the data: data queries, verification, signatures, voiding of errors, monitors' overviews."""
