"""Acts of site apps that were offline: kept, put in order and carried out."""
