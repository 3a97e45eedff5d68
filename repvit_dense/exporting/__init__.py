"""Export a trained model to an artifact: a folder that runs without PyTorch and OpenMMLab."""
