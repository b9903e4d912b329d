"""The ONNX importer: ONNX files become trainable classifiers.

In the order of `loading.load_onnx`: `parse` (bytes → checked model), `rewrite` (one form, any number of rows), `train`
(logits, features, weights, the network by the table in `operators`; what cannot be trained: `runtime_loading`), `cost`
(what a row may cost).
"""
