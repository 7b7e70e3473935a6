//! The connection to the broker: the only file that names rumqttc.
