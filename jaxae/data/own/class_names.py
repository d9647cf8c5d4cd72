"""Which classes are normal by their names: a list of words that people use, with negations."""

import itertools
import re

_NORMAL = (
    r"normal|normals|normally|good|ok|okay|okey|nominal|healthy|benign|inliers?|regular"
    r"|pass|passe[ds]|passing|legit|legitimate|working|works|fine|clean|intact|genuine|valid"
    r"|accept|accept(ed|able)|correct|usual|typical|flawless|perfect|safe|conform(ing|s)?|ham"
    r"|authentic|functional|operational|unremarkable"
)
_ANOMALOUS = (
    r"abnormal|abnormal(s|ly|ity|ities)|anom(aly|al|alies|alous)?|outl(iers?|ying)|nok|ng"
    r"|fail(s|ed|ing|ures?)?|fault(s|y|ed)?|fraud(s|ulent)?|attack(s|ed|ers?)?"
    r"|def|defect(s|ed|ive)?|broken?|bad|intrusions?|intruders?|intrusive"
    r"|infect(ed|ions?)|parasit(es?|ic|i[sz]ed)|damaged?|damages|malicious|malign(ant)?|malware"
    r"|trojans?|botnet|errors?|erroneous|wrong|reject(s|ed)?|scrap(ped)?|sick|diseased?|cancer"
    r"|cancerous|tumou?rs?|spam|phishing|suspicious|unusual|crack(s|ed)?|scratch(ed|es)?"
    r"|leak(s|y|age|ing)?|breakdowns?|malfunction(s|ing)?|corrupt(ed|ion)?|contaminated"
    r"|contamination|fake|forged|counterfeit|illegal|illicit|illegitimate|invalid|incorrect"
    r"|irregular(ity|ities)?|dead|backdoors?|exploits?|d?dos|worms?|shellcode|flaw(s|ed)?|alarms?"
)
_NOT = {"no", "not", "non", "un", "never", "without", "zero"}
# Names that say something only beside another: yes, no; negative, positive.
_NO = {"no", "none", "nothing", "negative", "neg", "false", "absent"}
_YES = {"yes", "positive", "pos", "true", "present"}
# Letters for normal and abnormal, no and yes, negative and positive, false and true, good and bad,
# benign and malignant: the first of each is normal.
_LETTERS = ("na", "ny", "np", "ft", "gb", "bm")


def side(name: str) -> str:
    """What a name says of itself: "normal", "anomalous", or "" if it says neither, or both.

    Case, digits, signs, blanks and further words are ignored: "Good part", "fault1", "normal.". A
    negation turns its word around: "no_fault", "non-anomalous", "not ok", "defect-free".
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z][a-z]|[A-Z]{2})", " ", name)  # BenignTraffic, NotOK
    words = re.findall(r"[^\W\d_]+", spaced.lower())
    text = " ".join(words)
    if re.search(r"\bout of\b", text):
        return "anomalous"
    if re.search(
        r"\b(in|within) (control|spec|specs|specification|tolerance|range|limits)\b", text
    ):
        return "normal"
    said, is_negated = set(), False
    for word, following in itertools.zip_longest(words, words[1:]):
        known, is_turned = _known(word)
        if known:
            is_turned ^= is_negated ^ (following == "free")
            said.add({"normal": "anomalous", "anomalous": "normal"}[known] if is_turned else known)
        is_negated = word in _NOT or (is_negated and not known)
    return said.pop() if len(said) == 1 else ""


def _known(word: str) -> tuple[str, bool]:
    """What a word means, and whether a prefix turns it around: unhealthy, nonfraud."""
    for prefix in ("", "non", "un"):
        stem = word.removeprefix(prefix)
        for meaning, words in (("normal", _NORMAL), ("anomalous", _ANOMALOUS)):
            if word.startswith(prefix) and re.fullmatch(words, stem):
                return meaning, bool(prefix)
    return "", False


def normals(names: tuple[str, ...]) -> tuple[int, ...]:
    """The positions of the names that are normal; () = the names do not say.

    Beside known normals, all others are anomalies; beside known anomalies, a single other name is
    normal.
    """
    known = _known_normals(names)
    others = [i for i, name in enumerate(names) if not side(name) and _plain(name) not in _YES]
    return known or (tuple(others) if len(others) == 1 < len(names) else ())


def is_eliminated(names: tuple[str, ...]) -> bool:
    """Whether the normal name is known only because the other names are those of anomalies."""
    return not _known_normals(names)


def _known_normals(names: tuple[str, ...]) -> tuple[int, ...]:
    sides = [side(name) for name in names]
    if "normal" in sides:
        return tuple(i for i, one in enumerate(sides) if one == "normal")
    lowered = [_plain(name) for name in names]
    letters = next((pair[0] for pair in _LETTERS if {*pair} == {*lowered}), None)
    plain = [i for i, name in enumerate(lowered) if name in _NO or name == letters]
    return tuple(plain) if len(plain) == 1 else ()


def _plain(name: str) -> str:
    return name.strip().lower()
