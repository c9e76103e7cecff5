"""Resource groups: the door to _rgrp_core, _rgrp_free and _rgrp_alloc (see _rgrp.pxd)."""
