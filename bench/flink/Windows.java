import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * The benchmark's job as Flink's own API has it: JSON from a topic, 10 s tumbling windows by device with count, sum, mean, min,
 * max and deviation, exactly once to another topic. Reads to the end of the topic and says how long that took from the first
 * reading on: without the start of the virtual machine and of the cluster in it.
 *
 * <p>A reader of JSON by tokens, state on the heap, objects reused: what one does for speed.
 */
public final class Windows {
    /** A reading. Public fields, so that Flink serialises it as a POJO. */
    public static final class Reading {
        public String device;
        public long timestamp;
        public double temperature;
    }

    /** What a window has so far. */
    public static final class Sums {
        public long count;
        public double mean;
        public double squares;
        public double sum;
        public double low = Double.POSITIVE_INFINITY;
        public double high = Double.NEGATIVE_INFINITY;
    }

    /** When the first reading came; the cluster is in this process. */
    static final AtomicLong FIRST = new AtomicLong();

    static final class Json implements DeserializationSchema<Reading> {
        private transient JsonFactory factory;

        @Override
        public Reading deserialize(byte[] message) throws IOException {
            if (factory == null) {
                factory = new JsonFactory();
                FIRST.compareAndSet(0, System.nanoTime());
            }
            Reading reading = new Reading();
            try (JsonParser parser = factory.createParser(message)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String name = parser.currentName();
                    parser.nextToken();
                    switch (name) {
                        case "device_id" -> reading.device = parser.getText();
                        case "timestamp" -> reading.timestamp = parser.getLongValue();
                        case "temperature" -> reading.temperature = parser.getDoubleValue();
                        default -> parser.skipChildren();
                    }
                }
            }
            return reading;
        }

        @Override
        public boolean isEndOfStream(Reading reading) {
            return false;
        }

        @Override
        public TypeInformation<Reading> getProducedType() {
            return TypeInformation.of(Reading.class);
        }
    }

    static final class Aggregate implements AggregateFunction<Reading, Sums, Sums> {
        @Override
        public Sums createAccumulator() {
            return new Sums();
        }

        @Override
        public Sums add(Reading reading, Sums sums) {
            double value = reading.temperature;
            sums.count++;
            double delta = value - sums.mean;
            sums.mean += delta / sums.count;
            sums.squares += delta * (value - sums.mean);
            sums.sum += value;
            sums.low = Math.min(sums.low, value);
            sums.high = Math.max(sums.high, value);
            return sums;
        }

        @Override
        public Sums getResult(Sums sums) {
            return sums;
        }

        @Override
        public Sums merge(Sums a, Sums b) {
            throw new UnsupportedOperationException("tumbling windows are never merged");
        }
    }

    static final class Row extends ProcessWindowFunction<Sums, String, String, TimeWindow> {
        @Override
        public void process(String key, Context context, Iterable<Sums> sums, Collector<String> out) {
            Sums window = sums.iterator().next();
            String start = Instant.ofEpochMilli(context.window().getStart()).toString();
            double deviation = Math.sqrt(window.squares / window.count);
            out.collect("{\"key\":\"" + key + "\",\"window_start\":\"" + start + "\",\"n\":" + window.count + ",\"sum\":" + window.sum
                    + ",\"mean\":" + window.mean + ",\"min\":" + window.low + ",\"max\":" + window.high + ",\"stddev\":" + deviation
                    + ",\"_id\":\"" + key + "/" + start + "\"}");
        }
    }

    public static void main(String[] arguments) throws Exception {
        String servers = arguments[0];
        String from = arguments[1];
        String to = arguments[2];
        int parallelism = Integer.parseInt(arguments[3]);
        Configuration configuration = new Configuration();
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(128));
        configuration.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(128));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(parallelism, configuration);
        environment.enableCheckpointing(5_000);
        environment.getConfig().enableObjectReuse();
        KafkaSource<Reading> source = KafkaSource.<Reading>builder()
                .setBootstrapServers(servers)
                .setTopics(from)
                .setGroupId("flink")
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setBounded(OffsetsInitializer.latest())
                .setProperty("isolation.level", "read_committed")
                .setValueOnlyDeserializer(new Json())
                .build();
        WatermarkStrategy<Reading> watermarks = WatermarkStrategy
                .<Reading>forBoundedOutOfOrderness(Duration.ofSeconds(1))
                .withTimestampAssigner((reading, ignored) -> reading.timestamp);
        KafkaSink<String> sink = KafkaSink.<String>builder()
                .setBootstrapServers(servers)
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix("flink-windows")
                .setProperty("transaction.timeout.ms", "60000")
                .setProperty("compression.type", "lz4")
                .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                        .setTopic(to)
                        .setKeySerializationSchema((String row) -> row.substring(8, row.indexOf('"', 8)).getBytes(StandardCharsets.UTF_8))
                        .setValueSerializationSchema(new SimpleStringSchema())
                        .build())
                .build();
        environment.fromSource(source, watermarks, "in")
                .keyBy(reading -> reading.device)
                .window(TumblingEventTimeWindows.of(Duration.ofSeconds(10)))
                .aggregate(new Aggregate(), new Row())
                .sinkTo(sink);
        environment.execute("windows");
        System.out.println("{\"seconds\": " + (System.nanoTime() - FIRST.get()) / 1e9 + "}");
    }
}
