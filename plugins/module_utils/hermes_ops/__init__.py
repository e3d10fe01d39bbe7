# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kit: how Hermes is operated, in pure Python and the standard library (Python >= 3.9).

The collection's modules import it on the controller's behalf; the role ``ops`` installs the very same
package on the host as the command ``hermes-ops``. Functions named ``plan_*`` decide and touch nothing;
the others act.
"""

from __future__ import annotations

__version__ = "0.1.0"
