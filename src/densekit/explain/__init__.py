"""Why did it say that: heat maps over pictures, and which features the layers of a DenseNet use."""
