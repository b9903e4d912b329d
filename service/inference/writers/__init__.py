"""Writers of predictions: JSON rows of `/v1`, tables of batch results, tensors of the Open Inference Protocol."""
