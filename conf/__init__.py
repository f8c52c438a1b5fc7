"""The configuration files as a package: `initialize_config_module("microgpt.conf")`, `hydra.searchpath=[pkg://microgpt.conf]`.

Importing the package registers the schema, which is the first entry in the defaults list of conf/config.yaml.
"""

from microgpt.config.hydra_schema import register_schema

register_schema()
