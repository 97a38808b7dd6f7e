"""Networks for other runtimes: files of ONNX, OpenVINO and TensorRT, proof of agreement, engines."""
