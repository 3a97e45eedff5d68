"""Run an exported model with numpy, OpenCV and one runtime."""
