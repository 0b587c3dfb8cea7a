"""Tokens: what is signed with a key passes, and nothing else."""

import pytest
from azure.eventhub._pyamqp.utils import generate_sas_token

from worker.local.cbs import TokenCheck, make_token, sign
from worker.local.refusals import AUTH_FAILED, Refused

NOW = 1_700_000_000.0
LATER = int(NOW) + 60
HUB = "sb://127.0.0.1:5672/hub"
CHECK = TokenCheck({"root": "k+/=", "my key": "other"})


def test_a_signature_is_the_documented_one():
    # By openssl: printf 'sb%%3A%%2F%%2Fh%%2Fhub\n1700000060' | openssl dgst -sha256 -hmac 'k+/=' -binary | base64
    assert sign("k+/=", "sb%3A%2F%2Fh%2Fhub", 1_700_000_060) == "wyFVL0l/lscm2K9byZkeIfFtxg3JEORZhsGqd9dE8ZU="


@pytest.mark.parametrize(
    "audience", [HUB, HUB + "/", "sb://other/HUB/ConsumerGroups/g/Partitions/0", "hub/$management"]
)
def test_a_token_is_good_for_its_resource_and_all_below(audience):
    CHECK.check(make_token("root", "k+/=", HUB, LATER), audience, NOW)


def test_the_sdks_own_tokens_pass():
    CHECK.check(generate_sas_token(HUB, "root", "k+/=", LATER), HUB, NOW)
    CHECK.check(generate_sas_token(HUB, "my key", "other", LATER), HUB, NOW)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (make_token("root", "wrong", HUB, LATER), "InvalidSignature"),
        (make_token("nobody", "k+/=", HUB, LATER), "InvalidSignature"),
        (make_token("root", "k+/=", HUB, LATER).replace(str(LATER), str(LATER + 9)), "InvalidSignature"),
        (make_token("root", "k+/=", HUB, LATER).replace(str(LATER), "soon"), "InvalidSignature"),
        (make_token("root", "k+/=", HUB, int(NOW)), "ExpiredToken"),
        (make_token("root", "k+/=", "sb://127.0.0.1:5672/hub2", LATER), "InvalidAudience"),
        (make_token("root", "k+/=", HUB + "/ConsumerGroups/g", LATER), "InvalidAudience"),
        ("SharedAccessSignature sr=x", "MalformedToken"),
        ("eyJhbGciOi.J9.x", "MalformedToken"),
        ("", "MalformedToken"),
    ],
)
def test_any_other_token_is_refused_without_repeating_it(token, why):
    with pytest.raises(Refused, match=why) as raised:
        CHECK.check(token, HUB, NOW)
    assert raised.value.condition == AUTH_FAILED
    assert "k+/=" not in raised.value.description
    assert not token or token not in raised.value.description


def test_without_keys_every_token_passes():
    TokenCheck({}).check("anything", HUB, NOW)
    assert not TokenCheck({}).required
