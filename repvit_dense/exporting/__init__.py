"""From a trained model to an artifact: a folder that runs without torch and OpenMMLab."""
