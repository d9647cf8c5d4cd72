"""The settings of many processes that train together; a section of `jaxae.config`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HostsConfig:
    """Many processes, one for each host or accelerator, that train one model together."""

    auto: bool = False
    """be told by Slurm, Kubernetes, Open MPI or a TPU pod who takes part"""
    coordinator: str = ""
    """HOST:PORT of process 0, the same for all; with count and index, instead of auto"""
    count: int = 0
    """how many processes there are"""
    index: int = -1
    """which of them this is, from 0"""
    timeout: int = 60
    """seconds after which a process that is silent is given up, and all others stop"""

    @property
    def asked(self) -> bool:
        """Whether there are to be several processes."""
        return self.auto or bool(self.coordinator)
