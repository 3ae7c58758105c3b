"""The way of the data: folder, pictures, batches."""
