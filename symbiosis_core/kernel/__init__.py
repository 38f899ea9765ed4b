"""The microkernel: starts services in order, watches over them, stops them in reverse. It knows none of them."""

from __future__ import annotations

from symbiosis_core.kernel.service import Service, ServiceState
from symbiosis_core.kernel.signals import install_signals
from symbiosis_core.kernel.supervision import Kernel, KernelStatistics, ServiceStatistics

__all__ = ["Kernel", "KernelStatistics", "Service", "ServiceState", "ServiceStatistics", "install_signals"]
