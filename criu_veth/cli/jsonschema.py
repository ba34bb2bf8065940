"""The JSON Schemas of the mapping file and of the state file.

They are what msgspec makes of the types; to the mapping file's is added what only `config` and `rules` know.
"""

from typing import Any

import msgspec

from criu_veth import config, paths, rules, state

Schema = dict[str, Any]

_REFUSED = "/ \t\n\v\f\r\u00a0"  # in an interface name, beside ':' and '%'
_NAME = rf"^(?!(\.|\.\.|all|default)$)[^:%{_REFUSED}]{{1,{rules.IFNAMSIZ - 1}}}$"
_ALTNAME = rf"^[^\0]{{1,{rules.ALTIFNAMSIZ - 1}}}$"
_TEMPLATE = rf"^(?!(\.|\.\.|all|default)$)([^:%{{}}{_REFUSED}]|\{{({'|'.join(config.PLACEHOLDERS)})\}})+$"
_MAPPING = r"^(veth\[[^\]]+\]:|[^:=\[]+[:=])[^@]+(@[^@]+)?$"
_SYSCTL = rf"^({'|'.join('[.]'.join(family) for family in rules.SYSCTL_DIRECTORIES)})[.][a-z0-9_-]+$"
_U32 = {"minimum": 0, "maximum": (1 << 32) - 1}

#: What each key means, and which of its type's values it takes: by table, then key.
_ADOPTED: Schema = {
    "description": "Of a pair that somebody else has made, dress: what was captured is put back where its maker left"
    " the kernel's default; leave: nothing is."
}
_VETH: dict[str, Schema] = {
    "adopted": _ADOPTED,
    "inner": {"description": "Name of the inner end, in the container's network namespace.", "pattern": _NAME},
    "outer": {
        "description": "Name of the outer end. {inner} stands for the inner end's name, {hostname} for the host's,"
        " {image} for the image directory's.",
        "pattern": _TEMPLATE,
    },
    "bridge": {"description": "Bridge that the outer end becomes a port of.", "pattern": _NAME},
    "mac": {
        "description": "MAC address of the outer end.",
        "pattern": "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$",
        "not": {"const": "00:00:00:00:00:00"},
    },
    "mtu": {"description": "MTU in bytes.", "minimum": rules.MTU_MIN, "maximum": rules.MTU_MAX},
    "txqueuelen": {"description": "Length of the transmit queue in packets.", **_U32},
    "alias": {"description": "The device's alias, a text for people.", "maxLength": rules.IFALIASZ - 1},
    "altnames": {"description": "Alternative names of the device.", "items": {"type": "string", "pattern": _ALTNAME}},
    "addresses": {"description": "IP addresses with a prefix length; without one, an address stands alone."},
    "routes": {
        "description": "Routes through the outer end, as `ip route add` takes them:"
        " DST [via GW] [src IP] [metric N] [table N] [scope S] [onlink]."
    },
    "sysctl": {
        "description": "Settings of the device below /proc/sys/net, such as ipv4.proxy_arp.",
        "propertyNames": {"pattern": _SYSCTL},
    },
    "port": {"description": "Flags of the bridge port."},
    "ovs": {"description": "The outer end as a port of an Open vSwitch bridge, by the columns of its database."},
    "vlan": {
        "description": "VLANs of the bridge port, which then has no other; default: those that the bridge gives it."
    },
    "announce": {
        "description": "Tell the network where the container is now (gratuitous ARP, neighbour advertisement)."
    },
    "ipv6_dad": {
        "description": "skip: the inner end's IPv6 addresses are usable at once; keep: they are tentative until"
        " duplicate address detection is over, and sockets bound to them cannot be restored."
    },
    "mode": {
        "description": "How the inner end comes back, if not as CRIU is told: external, CRIU makes the pair; ready,"
        " CRIU moves a device in that the hook has made; empty, the hook makes it in an empty network namespace."
    },
    "kind": {"description": "Kind of device that the inner end is."},
    "parent": {"description": "Device of this host that a macvlan or an ipvlan is made on.", "pattern": _NAME},
    "kind_mode": {
        "description": "Mode of an inner end which is no veth, such as bridge of a macvlan or l3 of an ipvlan."
    },
    "netns": {"description": "The inner end, where CRIU does not bring it back."},
}
_PORT: dict[str, Schema] = {
    "priority": {"description": "STP priority."},
    "cost": {"description": "STP path cost."},
    "hairpin": {"description": "Send a frame back out of the port that it came from."},
    "guard": {"description": "Refuse STP frames (BPDU guard)."},
    "root_block": {"description": "Never become the root port."},
    "fastleave": {"description": "Stop multicast as soon as a leave message arrives."},
    "learning": {"description": "Learn MAC addresses from this port's traffic."},
    "flood": {"description": "Send frames for unknown unicast addresses out of this port."},
    "mcast_flood": {"description": "Send multicast that nobody asked for out of this port."},
    "bcast_flood": {"description": "Send broadcasts out of this port."},
    "mcast_to_unicast": {"description": "Send multicast as unicast to each receiver."},
    "mcast_router": {"description": "Multicast router behind this port: 0 never, 1 if one is heard, 2 always."},
    "mcast_max_groups": {"description": "Most multicast groups on this port; 0: no limit."},
    "proxy_arp": {"description": "Answer ARP for neighbours behind other ports."},
    "proxy_arp_wifi": {"description": "The same, as IEEE 802.11 and Hotspot 2.0 want it."},
    "neigh_suppress": {"description": "Answer ARP and ND from the neighbour table instead of sending them out."},
    "neigh_vlan_suppress": {"description": "The same, by VLAN."},
    "vlan_tunnel": {"description": "Map VLANs to tunnel ids."},
    "isolated": {"description": "No traffic to other isolated ports."},
    "locked": {"description": "Drop traffic from MAC addresses that are not in the forwarding table."},
    "mab": {"description": "MAC authentication bypass: note the unknown addresses of a locked port."},
    "group_fwd_mask": {"description": "Link-local groups (01:80:C2:00:00:0X) that are forwarded, one bit each."},
}
_VLAN_ID: Schema = {"minimum": rules.VLAN_MIN, "maximum": rules.VLAN_MAX}
_OVS_VLAN: Schema = {"minimum": 0, "maximum": rules.OVS_VLAN_MAX}


def _vlan_ids(bounds: Schema) -> Schema:
    """The items of an array of VLANs and ranges of them."""
    return {"anyOf": [{"type": "integer", **bounds}, {"type": "string", "pattern": "^[0-9]{1,4}(-[0-9]{1,4})?$"}]}


_TEXTS: Schema = {"propertyNames": {"minLength": 1}, "maxProperties": rules.OVS_MAP_MAX}
_OVS: dict[str, Schema] = {
    "bridge": {"description": "Open vSwitch bridge that the outer end becomes a port of.", "pattern": _NAME},
    "tag": {"description": "VLAN of an access port; of a native one that of its untagged frames.", **_OVS_VLAN},
    "trunks": {
        "description": "VLANs of a trunk port, and ranges of them.",
        "items": _vlan_ids(_OVS_VLAN),
    },
    "vlan_mode": {"description": "Without it, a port with a tag is an access port, and one without a trunk port."},
    "external_ids": {"description": "Keys for other programs, of the port.", **_TEXTS},
    "interface_external_ids": {"description": "The same of its interface, such as OVN's iface-id.", **_TEXTS},
    "ingress_policing_rate": {"description": "Most that the container may send, in kbit/s; 0: no limit.", **_U32},
    "ingress_policing_burst": {"description": "Burst beyond that, in kbit; 0: Open vSwitch's own default.", **_U32},
}
_VLAN: dict[str, Schema] = {
    "pvid": {
        "description": "VLAN of frames that come in without a tag; it is untagged or tagged too. Without it they are"
        " dropped.",
        **_VLAN_ID,
    },
    "untagged": {
        "description": "VLANs whose frames go out without a tag: ids and ranges, 30-39.",
        "items": _vlan_ids(_VLAN_ID),
    },
    "tagged": {
        "description": "VLANs whose frames go out with their tag: ids and ranges, 30-39.",
        "items": _vlan_ids(_VLAN_ID),
    },
}
_KEYS: dict[str, dict[str, Schema]] = {
    "File": {
        "mappings": {
            "description": "The short form: veth[INNER]:OUTER@BRIDGE or INNER:OUTER@BRIDGE, the bridge optional.",
            "items": {"type": "string", "pattern": _MAPPING},
        },
        "defaults": {"description": "What holds for every veth unless its own table says otherwise."},
        "veth": {"description": "The long form, one table a veth."},
        "remap": {"description": "What is called differently on this host than where the checkpoint was made."},
        "capture": {"description": "What is remembered when a checkpoint is made."},
        "adopted": _ADOPTED,
        "verify": {"description": "Compare the kernel with what was asked for once the container runs, and say it."},
        "announcements": {"description": "How often the network is told where the container is now."},
        "match": {"description": "For which containers a file in /etc/criu/criu-veth.d is."},
        "trust": {"description": "What a state file that this host did not write may have done."},
    },
    "Defaults": _VETH,
    "VethTable": _VETH,
    "Netns": {
        **_VETH,
        "mac": {**_VETH["mac"], "description": "MAC address of the inner end."},
        "routes": {**_VETH["routes"], "description": "Routes through the inner end, as `ip route add` takes them."},
    },
    "Port": {
        name: {**words, **dict(zip(("minimum", "maximum"), config.PORT_RANGES.get(name, ()), strict=False))}
        for name, words in _PORT.items()
    },
    "Ovs": _OVS,
    "VlanTable": _VLAN,
    "Remap": {
        "bridge": {
            "description": "The captured name of a bridge to its name here.",
            "propertyNames": {"pattern": _NAME},
            "additionalProperties": {"type": "string", "pattern": _NAME},
        },
    },
    "Match": {
        "container": {"description": "Shell patterns: the container's name or id, or NAMESPACE/POD/CONTAINER."},
        "image": {"description": "Shell patterns: the image directory's name, or its path if there is a / in them."},
        "hostname": {"description": "Shell patterns: this host's name."},
    },
    "Announcements": {
        "repeat": {"description": "How many times more the container is announced after the restore."},
        "interval": {"description": "Seconds between two announcements."},
    },
    "Trust": {
        "allow": {"description": "What it may have done beyond what an ordinary migration needs."},
        "images": {
            "description": "data: a state file is data, and does no more than that; root: whoever writes images may do"
            " all that root may."
        },
    },
    "Capture": {
        "enabled": {"description": "Read the outer ends at the dump and keep them in the image directory."},
        "on_error": {
            "description": "What makes the dump fail: error: a capture that fails, and what CRIU can never restore;"
            " warn: neither; without it the first alone."
        },
    },
}


def of_mapping_file() -> Schema:
    """Return the schema, draft 2020-12."""
    made = msgspec.json.schema(config.File)
    for name, table in made["$defs"].items():
        table["description"] = table["description"].replace("``", "`")
        table["properties"] = {
            key: {**_without_null(schema), **_KEYS.get(name, {}).get(key, {})}
            for key, schema in table["properties"].items()
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "criu-veth.toml",
        **made,
    }


def of_state_file() -> Schema:
    """Return the schema, draft 2020-12."""
    made = msgspec.json.schema(state.State)
    for table in made["$defs"].values():
        table["description"] = " ".join(table["description"].replace("``", "`").split())
    version = made["$defs"]["State"]["properties"]["version"]
    version.update(minimum=1, maximum=state.SCHEMA_VERSION)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": paths.STATE_NAME, **made}


def _without_null(schema: Schema) -> Schema:
    """Drop null, which TOML does not have, and defaults, which mean "leave it alone"."""
    schema = {key: value for key, value in schema.items() if key != "default"}
    if "anyOf" not in schema:
        return schema
    kinds = [_without_null(kind) for kind in schema["anyOf"] if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else {**schema, "anyOf": kinds}
