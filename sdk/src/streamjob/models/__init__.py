"""The StreamJob API as pydantic models: the single source of the YAML's shape, its defaults and its descriptions."""

from streamjob.models.base import ColumnType, Duration, Size
from streamjob.models.connections import ClientTls, ConnectionBackoff
from streamjob.models.formats import Avro, AvroFile, FileFormatKinds, MessageFormatKinds, Registry, SchemaText
from streamjob.models.job import API_VERSION, KIND, JobSpec, Metadata, StreamJob
from streamjob.models.kafka import HeaderField, KafkaConnection, KafkaSink, KafkaSource
from streamjob.models.kubernetes import PodMetadata, PodTemplate, StorageSpec
from streamjob.models.mqtt import MqttSource
from streamjob.models.nats import NatsSink
from streamjob.models.postgres import PostgresSink
from streamjob.models.processing import CodeSpec, ConfigMapCode, UdfSpec, WindowSpec
from streamjob.models.python import PythonBackoff, PythonCode, PythonSink, PythonSource
from streamjob.models.schema import EventTime, FieldSpec, KeySpec, SchemaSpec
from streamjob.models.secrets import Secret, SecretRef
from streamjob.models.settings import (
    CheckpointSpec,
    EngineSpec,
    HistorySpec,
    IdempotencySpec,
    IngestSpec,
    RestSpec,
    StateSpec,
    TimeSpec,
)
from streamjob.models.sinks import EVENTS, Backoff, DeadLetterSpec, FileSink, HttpSink, SinkSpec, StdoutSink
from streamjob.models.sources import FileSource, HttpSource, SourceSpec

__all__ = [
    "API_VERSION",
    "EVENTS",
    "KIND",
    "Avro",
    "AvroFile",
    "Backoff",
    "CheckpointSpec",
    "ClientTls",
    "CodeSpec",
    "ColumnType",
    "ConfigMapCode",
    "ConnectionBackoff",
    "DeadLetterSpec",
    "Duration",
    "EngineSpec",
    "EventTime",
    "FieldSpec",
    "FileFormatKinds",
    "FileSink",
    "FileSource",
    "HeaderField",
    "HistorySpec",
    "HttpSink",
    "HttpSource",
    "IdempotencySpec",
    "IngestSpec",
    "JobSpec",
    "KafkaConnection",
    "KafkaSink",
    "KafkaSource",
    "KeySpec",
    "MessageFormatKinds",
    "Metadata",
    "MqttSource",
    "NatsSink",
    "PodMetadata",
    "PodTemplate",
    "PostgresSink",
    "PythonBackoff",
    "PythonCode",
    "PythonSink",
    "PythonSource",
    "Registry",
    "RestSpec",
    "SchemaSpec",
    "SchemaText",
    "Secret",
    "SecretRef",
    "SinkSpec",
    "Size",
    "SourceSpec",
    "StateSpec",
    "StdoutSink",
    "StorageSpec",
    "StreamJob",
    "TimeSpec",
    "UdfSpec",
    "WindowSpec",
]
