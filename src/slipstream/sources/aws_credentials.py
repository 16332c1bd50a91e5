"""Credentials, region and endpoint of S3, by the rules and variables of Amazon's own SDKs.

Source: "AWS SDKs and Tools Reference Guide": Settings reference, Standardized credential providers.
"""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slipstream.errors import AccessDeniedError, MissingDependencyError, UsageError
from slipstream.sources.credentials import (
    Container,
    Credentials,
    Provider,
    Showing,
    both_or_neither,
    is_set,
    no_credentials,
    variable,
)

if TYPE_CHECKING:
    import boto3

# One second, as botocore's default for the metadata service: it answers in milliseconds or not at all.
_METADATA_WAIT_S = 1.0
_PIP = 'pip install "slipstream[s3]"'


def find_aws_credentials(container: Container) -> Credentials:
    """Finds what to sign requests of a bucket with.

    Raises:
        AccessDeniedError: there is nothing; or a profile or role cannot be used. The text says what was looked at.
        MissingDependencyError: a profile or role was asked for, and boto3 is not installed.
        UsageError: half a key pair, or a profile that does not exist.
    """
    options = container.options
    both_or_neither(options.access_key_id, options.secret_access_key, "access_key_id and secret_access_key")
    if options.anonymous:
        return Credentials(Showing.NOTHING, "storage_options", {"skip_signature": True})
    if options.access_key_id and options.secret_access_key:
        return _static(options.access_key_id, options.secret_access_key, options.session_token, "storage_options")
    if options.role_arn:
        return _assumed_role(options.role_arn, options.profile)
    if options.profile:
        return _from_profile(options.profile)
    return _find_in_environment()


def _find_in_environment() -> Credentials:
    key, secret = variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")
    if is_set("AWS_SKIP_SIGNATURE"):
        return Credentials(Showing.NOTHING, "AWS_SKIP_SIGNATURE", {"skip_signature": True})
    if key and secret:
        token = variable("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
        return _static(key, secret, token, "the environment (AWS_ACCESS_KEY_ID)")
    if profile := variable("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        return _from_profile(profile)
    if variable("AWS_WEB_IDENTITY_TOKEN_FILE") and variable("AWS_ROLE_ARN"):
        return Credentials(Showing.SIGNATURE, "the web identity in AWS_WEB_IDENTITY_TOKEN_FILE")
    if variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return Credentials(Showing.SIGNATURE, "the container's role (AWS_CONTAINER_CREDENTIALS_...)")
    if _profiles_exist() and find_spec("boto3") is not None:
        found = _from_session(_session(None), "the default profile")
        if found is not None:
            return found
    if _metadata_answers():
        return Credentials(Showing.SIGNATURE, "the instance's metadata service")
    raise _nothing_found(key is not None)


def _nothing_found(half: bool) -> AccessDeniedError:
    profiles = "the default profile in ~/.aws"
    if not _profiles_exist():
        profiles += " (there is none)"
    elif find_spec("boto3") is None:
        profiles += f" (there is one, and reading it takes boto3: {_PIP})"
    metadata = "switched off" if is_set("AWS_EC2_METADATA_DISABLED") else "no answer"
    variables = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return no_credentials(
        "AWS",
        f"storage_options, {variables} ({'only the first is' if half else 'not'} set), AWS_PROFILE (not set), "
        f"{profiles}, web identity and container variables (not set), the instance's metadata service ({metadata})",
        'For a public bucket give storage_options={"anonymous": True}',
    )


def _static(key: str, secret: str, token: str | None, found: str) -> Credentials:
    """Keys as they are. Through a provider, lest obstore completes them with a token it finds in the environment."""

    def provide() -> dict[str, Any]:
        return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}

    secrets = (key, secret, *([token] if token else []))
    return Credentials(Showing.SIGNATURE, found, provider=provide, lasting=True, secrets=secrets)


def _from_profile(profile: str) -> Credentials:
    found = _from_session(_session(profile), f"the profile {profile}")
    if found is None:
        raise AccessDeniedError(f"the AWS profile {profile} has no credentials: run aws configure or aws sso login")
    return found


def _from_session(session: boto3.Session, name: str) -> Credentials | None:
    """The credentials of a profile; None where it has only settings."""
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        provider = Boto3CredentialProvider(session)
    except ValueError:  # obstore's word for: the session has none
        return None
    except Exception as error:
        refusal = _refused(error, name)
    else:
        return Credentials(Showing.SIGNATURE, name, _region(session), _checked(provider, name))
    raise refusal


def _assumed_role(role: str, profile: str | None) -> Credentials:
    session = _session(profile)
    from obstore.auth.boto3 import StsCredentialProvider

    provider = StsCredentialProvider(session, RoleArn=role, RoleSessionName="slipstream")
    return Credentials(Showing.SIGNATURE, f"the role {role}", _region(session), _checked(provider, f"the role {role}"))


def _region(session: boto3.Session) -> dict[str, str]:
    return {"region": session.region_name} if session.region_name else {}


def _session(profile: str | None) -> boto3.Session:
    try:
        import boto3
        import botocore.exceptions
    except ImportError:
        raise MissingDependencyError(f"AWS profiles and roles are read with boto3: {_PIP}") from None
    try:
        return boto3.Session(profile_name=profile)
    except botocore.exceptions.ProfileNotFound:
        known = ", ".join(sorted(boto3.Session().available_profiles)[:8]) if not variable("AWS_PROFILE") else ""
    raise UsageError(
        f"there is no AWS profile {profile} in ~/.aws/config or ~/.aws/credentials"
        + (f"; there are: {known}" if known else ": check AWS_PROFILE, or run aws configure list-profiles")
    )


def _checked(provider: Provider, found: str) -> Provider:
    """Asks a provider once, here, where its failure can be told from a store's."""
    try:
        provider()
    except Exception as error:
        refusal = _refused(error, found)
    else:
        return provider
    raise refusal


def _refused(error: Exception, found: str) -> AccessDeniedError:
    """Only the type of what botocore raised and its first words: the rest may repeat tokens."""
    name = type(error).__name__
    sso = "aws sso login renews it" if "SSO" in name or "Token" in name else "check it with aws sts get-caller-identity"
    return AccessDeniedError(f"{found} gives no credentials ({name}): {sso}")


def _profiles_exist() -> bool:
    paths = (
        variable("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials",
        variable("AWS_CONFIG_FILE") or "~/.aws/config",
    )
    return any(os.path.isfile(os.path.expanduser(path)) for path in paths)


def _metadata_answers() -> bool:
    """Whether anything listens where the metadata service would be."""
    if is_set("AWS_EC2_METADATA_DISABLED"):
        return False
    named = variable("AWS_METADATA_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
    address = urlsplit(named or "http://169.254.169.254")
    try:
        socket.create_connection((address.hostname or "", address.port or 80), _METADATA_WAIT_S).close()
    except (OSError, ValueError):
        return False
    return True


def find_region(container: Container, credentials: Credentials) -> str:
    """The region of the options, the environment or the profile; us-east-1 where none says one."""
    named = container.options.region or variable("AWS_REGION", "AWS_DEFAULT_REGION")
    return named or credentials.config.get("region") or "us-east-1"


def find_bucket_url(container: Container, region: str) -> tuple[str, bool]:
    """The URL of the bucket, without a slash at its end, and whether the bucket is in its host name.

    With Amazon it is, as they advise, except where a dot in its name would not fit their certificate.
    """
    endpoint = container.options.endpoint or variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    virtual = container.options.virtual_hosted_style
    if endpoint is None:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = f"https://s3.{region}.{domain}"
        virtual = "." not in container.name if virtual is None else virtual
    endpoint = endpoint.rstrip("/")
    if not virtual:
        return f"{endpoint}/{container.name}", False
    scheme, _, rest = endpoint.partition("://")
    named = rest if rest.startswith(container.name + ".") else f"{container.name}.{rest}"
    return f"{scheme}://{named}", True
