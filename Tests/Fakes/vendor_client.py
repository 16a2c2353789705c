"""Calls the fake with the vendor's own Python client, in its own process, as the two packages share an import name.

    PYTHONPATH=<environment>/vendor/<package> python vendor_client.py ENDPOINT ACCESS_KEY SECRET_KEY < calls.json

`calls.json` is a list of [method, path, parameters, service, headers]; prints a list of [result, error code, message].
"""

import importlib
import json
import sys
import types

from jdcloud_sdk.core.config import Config
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.core.jdcloudclient import JDCloudClient
from jdcloud_sdk.core.jdcloudrequest import JDCloudRequest


class Silent:
    def log(self, level, message):
        pass


def request(method, path, parameters, headers):
    """As the generated request classes are: the parameters an object, placeholders filled from it."""
    one = JDCloudRequest(path, method, headers)
    one.parameters = types.SimpleNamespace(**parameters)
    return one


REQUESTS = {
    "kms": (
        "DecryptRequest",
        "DescribeKeyDetailRequest",
        "DescribeKeyListRequest",
        "DescribeKeyRequest",
        "DisableKeyVersionRequest",
        "EncryptRequest",
        "GenerateDataKeyRequest",
        "KeyRotationRequest",
        "ScheduleKeyDeletionRequest",
    ),
    "sts": ("AssumeRoleRequest",),
}


def generated():
    """The KMS and STS clients and requests that the vendor generates; only the full package has them."""
    from jdcloud_sdk.services.kms.client.KmsClient import KmsClient
    from jdcloud_sdk.services.sts.client.StsClient import StsClient
    from jdcloud_sdk.services.sts.models.AssumeRoleInfo import AssumeRoleInfo

    modules = {
        name: importlib.import_module(f"jdcloud_sdk.services.{service}.apis.{name}")
        for service, names in REQUESTS.items()
        for name in names
    }
    return modules, KmsClient, StsClient, AssumeRoleInfo


def generated_request(modules, role_info, name, parameters, headers):
    if "assumeRoleInfo" in parameters:
        parameters = {"assumeRoleInfo": role_info(**parameters["assumeRoleInfo"])}
    module = modules[name]
    made = getattr(module, name.replace("Request", "Parameters"))(
        *[parameters.pop(one) for one in ("keyId", "version", "assumeRoleInfo") if one in parameters]
    )
    for field, value in parameters.items():
        getattr(made, "set" + field[0].upper() + field[1:])(value)
    return getattr(module, name)(made, headers)


def main():
    endpoint, access_key, secret_key = sys.argv[1:]
    credential, config = Credential(access_key, secret_key), Config(endpoint, "http", 30)
    modules = None
    answers = []
    for method, path, parameters, service, headers in json.load(sys.stdin):
        if method == "generated":
            if modules is None:
                modules, kms, sts, role_info = generated()
            client = (sts if service == "sts" else kms)(credential, config, Silent())
            reply = client.send(generated_request(modules, role_info, path, parameters, headers))
        else:
            client = JDCloudClient(credential, config, service, "0.3.3", Silent())
            reply = client.send(request(method, path, parameters, headers))
        error = reply.error
        answers.append([reply.result, error and error.code, error and error.message])
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
