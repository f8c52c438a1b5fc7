"""The configuration files as a package: `initialize_config_module("microgpt.conf")`, `hydra.searchpath=[pkg://microgpt.conf]`.

Importing it registers the schema, which conf/config.yaml begins with.
"""

from microgpt.config.hydra_schema import register_schema

register_schema()
