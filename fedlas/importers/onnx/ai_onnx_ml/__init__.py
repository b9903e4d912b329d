"""scikit-learn's operators (`ai.onnx.ml`) as standard ONNX operators."""
