// LocalProvider: placeholder of the skeleton.
