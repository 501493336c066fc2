"""Objects in a bucket, written by boto3: one for each batch, under the batch's key."""

from __future__ import annotations

import asyncio
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from streamjob import Batch, Rejected, Sink

TIMEOUT_S = 5


class S3Writer(Sink):
    """A batch that is written twice is the same object with the same bytes: it is idempotent."""

    client: Any = None

    async def open(self) -> None:
        """Makes the client and asks for the bucket."""
        config, secrets = self.context.config, self.context.secrets
        # The engine tries again itself.
        once = Config(retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
        self.client = boto3.client(
            "s3",
            endpoint_url=config.get("endpoint"),
            region_name=config.get("region", "us-east-1"),
            aws_access_key_id=secrets["accessKeyId"],
            aws_secret_access_key=secrets["secretAccessKey"],
            config=once,
        )
        await asyncio.to_thread(self.client.head_bucket, Bucket=config["bucket"])

    async def write(self, batch: Batch) -> None:
        """Puts one object."""
        name = f"{self.context.config.get('prefix', '')}{batch.key}.json"
        try:
            await asyncio.to_thread(
                self.client.put_object,
                Bucket=self.context.config["bucket"],
                Key=name,
                Body=batch.body,
                ContentType="application/json",
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "EntityTooLarge":
                raise Rejected(str(error)) from error
            raise

    async def close(self) -> None:
        """Gives the connections back."""
        if self.client is not None:
            self.client.close()
