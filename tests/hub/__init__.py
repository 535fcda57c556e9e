"""A local Hugging Face hub for tests: the real client talks to it through HF_ENDPOINT. See README.md."""

from tests.hub.faults import Fault, Faults
from tests.hub.log import Log, Request
from tests.hub.process import HubProcess
from tests.hub.repo import Commit, File, Repo
from tests.hub.server import Hub

__all__ = ["Commit", "Fault", "Faults", "File", "Hub", "HubProcess", "Log", "Repo", "Request"]
