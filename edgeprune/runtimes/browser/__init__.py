"""The transport into a browser: the agent's twin in JavaScript, with onnxruntime-web."""

from edgeprune.runtimes.browser.transport import Browser

__all__ = ["Browser"]
