"""iptables in a place: chains of one owner put on and taken off in one step, both families.

Of both makes: "legacy" (xtables) and "nft" (nf_tables underneath). What the rules say is not known
here: kubeproxy_rules.py and portmap_rules.py write them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from tests.lab.world import FAMILIES, IPV4, Place

MAKES = ("legacy", "nft")

Tables = Mapping[str, Sequence[str]]
"""Rules by table, as iptables-save writes them: "-A CHAIN ..."."""

_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def put(place: Place, family: int, tables: Tables, make: str = "legacy") -> None:
    """Replace the chains that these rules are in; rules in built-in chains are put in front."""
    remove(place, family, tables, make)
    lines = []
    for table, rules in tables.items():
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in _own(rules))]
        lines += [_in_front(rule) for rule in rules]
        lines.append("COMMIT")
    _restore(place, family, make, lines)


def remove(place: Place, family: int, tables: Tables, make: str = "legacy") -> None:
    """Take off the rules that lead to these chains, and the chains; nothing is no error."""
    for table, rules in tables.items():
        own = _own(rules)
        found = _save(place, family, make, table)
        there = [chain for chain in own if f":{chain} " in "\n".join(found)]
        if not there:
            continue
        leading = re.compile(rf"^-A ({'|'.join(_BUILT_IN)}) .*-j ({'|'.join(own)})$")
        lines = [f"*{table}", *("-D" + line[2:] for line in found if leading.match(line))]
        lines += [f":{chain} - [0:0]" for chain in there]
        lines += [f"-X {chain}" for chain in there]
        _restore(place, family, make, [*lines, "COMMIT"])


def policy(place: Place, chain: str, verdict: str, make: str = "legacy") -> None:
    """Set what a built-in chain of the filter table does at its end."""
    for family in FAMILIES:
        place.run(_command(family, make, ""), "-P", chain, verdict)


def _own(rules: Sequence[str]) -> list[str]:
    """Chains that are not built in, each once; targets that are no chains have no dash."""
    words = [word for rule in rules for word in (rule.split()[1], rule.split(" -j ")[1].split()[0])]
    return [word for word in dict.fromkeys(words) if "-" in word]


def _in_front(rule: str) -> str:
    return f"-I{rule[2:]}" if rule.split()[1] in _BUILT_IN else rule


def _command(family: int, make: str, what: str) -> str:
    return f"ip{'' if family == IPV4 else '6'}tables-{make}{what}"


def _save(place: Place, family: int, make: str, table: str) -> list[str]:
    return place.run(_command(family, make, "-save"), "-t", table).splitlines()


def _restore(place: Place, family: int, make: str, lines: Sequence[str]) -> None:
    command = [_command(family, make, "-restore"), "--noflush", "--wait"]
    argv = ["nsenter", f"--net={place.netns}", "--", *command]
    text = "\n".join([*lines, ""])
    done = subprocess.run(argv, input=text, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{text}")
