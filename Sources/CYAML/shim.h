// libyaml (Debian libyaml-dev): the YAML 1.1 parser, with line and column of every node.
#ifndef KMSWARD_CYAML_SHIM_H
#define KMSWARD_CYAML_SHIM_H

#include <yaml.h>

#endif
