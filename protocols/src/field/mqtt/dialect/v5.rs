//! The dialect of MQTT 5 (OASIS, 7 March 2019).

use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, Filter as Asked, Packet, Publish, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as Malformed, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as Spoken, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, Transport};

use super::{Ending, Event, Filter, Message, Terms, Ticket};
use crate::boot_time::BootTime;

/// The session never expires, as in 3.1.1 (MQTT 5, 3.1.2.11.2). Brokers cap it as they like.
const FOR_EVER: u32 = u32::MAX;

pub(super) fn open(terms: &Terms, transport: Transport) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(&terms.client_id, &terms.host, terms.port);
    let max_packet = terms.max_packet.min(super::LARGEST) as u32;
    options
        .set_transport(transport)
        .set_keep_alive(super::whole_keep_alive(terms.keep_alive))
        .set_clean_start(!terms.persistent)
        .set_manual_acks(true)
        // The broker itself keeps larger messages from us (MQTT 5, 3.1.2.11.4).
        .set_max_packet_size(Some(max_packet))
        .set_receive_maximum(Some(super::AHEAD))
        .set_session_expiry_interval(terms.persistent.then_some(FOR_EVER))
        // We publish nothing; by default `rumqttc` would reserve megabytes for it.
        .set_outgoing_inflight_upper_limit(1)
        .set_connection_timeout(terms.timeout.as_secs().saturating_add(1))
        .set_network_options(super::network(terms));
    if let Some((name, password)) = &terms.user {
        options.set_credentials(name, password.reveal());
    }
    AsyncClient::new(options, super::REQUESTS)
}

pub(super) fn filter(filter: &Filter) -> Asked {
    Asked::new(&filter.path, if filter.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce })
}

/// As much of a publish as its acknowledgement needs.
pub(super) fn receipt(ticket: Ticket) -> Publish {
    let qos = if ticket.exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    Publish { pkid: ticket.packet_id, ..Publish::new("", qos, "", None) }
}

pub(super) fn event(spoken: Spoken) -> Event {
    match spoken {
        Spoken::Incoming(Packet::ConnAck(_)) => Event::Accepted,
        Spoken::Incoming(Packet::SubAck(answer)) => {
            Event::Granted(answer.return_codes.into_iter().map(filter_refusal).collect())
        }
        Spoken::Incoming(Packet::Publish(publish)) => Event::Message(message(publish)),
        Spoken::Outgoing(Outgoing::Disconnect) => Event::Farewell,
        _ => Event::Other,
    }
}

fn message(publish: Publish) -> Message {
    let ticket = match publish.qos {
        QoS::AtMostOnce => None,
        qos => Some(Ticket { packet_id: publish.pkid, exactly_once: qos == QoS::ExactlyOnce }),
    };
    Message {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: super::own(&publish.payload),
        retained: publish.retain,
        arrived: BootTime::now(),
        ticket,
    }
}

fn filter_refusal(code: SubscribeReasonCode) -> Option<String> {
    let words = match code {
        SubscribeReasonCode::Success(_) => return None,
        SubscribeReasonCode::NotAuthorized => "we are not authorised to read it",
        SubscribeReasonCode::TopicFilterInvalid => "the broker does not accept this filter",
        SubscribeReasonCode::QuotaExceeded => "the broker's quota of subscriptions is used up",
        SubscribeReasonCode::SharedSubscriptionsNotSupported => "the broker has no shared subscriptions",
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => "the broker has no wildcards",
        SubscribeReasonCode::Failure
        | SubscribeReasonCode::Unspecified
        | SubscribeReasonCode::ImplementationSpecific
        | SubscribeReasonCode::PkidInUse
        | SubscribeReasonCode::SubscriptionIdNotSupported => "the broker gives no reason; may we read it?",
    };
    Some(words.into())
}

pub(super) fn ending(error: ConnectionError) -> Ending {
    match error {
        ConnectionError::ConnectionRefused(code) => refusal(code),
        ConnectionError::NotConnAck(_) => Ending::Mismatch(super::NOT_MQTT.into()),
        ConnectionError::Tls(error) => super::ending_of_tls_set_up(&error),
        ConnectionError::Io(error) => super::ending_of_io(&error),
        ConnectionError::MqttState(error) => ending_of_state(error),
        other => Ending::Broken(other.to_string()),
    }
}

fn ending_of_state(error: StateError) -> Ending {
    match error {
        StateError::Io(error) | StateError::Deserialization(Malformed::Io(error)) => {
            super::ending_of_io(&error)
        }
        StateError::IncomingPacketTooLarge { pkt_size: size, .. }
        | StateError::Deserialization(Malformed::PayloadSizeLimitExceeded { pkt_size: size, .. }) => {
            Ending::Oversized(size)
        }
        // A broker that knows only 3.1.1 answers in the form of 3.1.1, which has no properties.
        StateError::Deserialization(
            Malformed::InvalidConnectReturnCode(_)
            | Malformed::InvalidPacketType(_)
            | Malformed::MalformedPacket,
        ) => Ending::Mismatch(super::NOT_MQTT.into()),
        StateError::ConnFail { reason } => refusal(reason),
        StateError::ServerDisconnect { reason_code, reason_string } => farewell(reason_code, reason_string),
        StateError::ConnectionAborted => Ending::Closed,
        StateError::AwaitPingResp => Ending::Broken(super::PING.into()),
        other => Ending::Broken(other.to_string()),
    }
}

fn refusal(code: ConnectReturnCode) -> Ending {
    match code {
        ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
            Ending::Refused("it does not speak MQTT 5; set `version = \"3.1.1\"`".into())
        }
        ConnectReturnCode::BadClientId | ConnectReturnCode::ClientIdentifierNotValid => {
            Ending::Refused(super::CLIENT_ID.into())
        }
        ConnectReturnCode::BadUserNamePassword => Ending::Refused(super::PASSWORD.into()),
        ConnectReturnCode::NotAuthorized | ConnectReturnCode::Banned => {
            Ending::Refused(super::NOT_ALLOWED.into())
        }
        ConnectReturnCode::ServiceUnavailable
        | ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServerBusy
        | ConnectReturnCode::ConnectionRateExceeded => Ending::Broken(format!("the broker says {code:?}")),
        other => Ending::Refused(format!("the broker says {other:?}")),
    }
}

fn farewell(code: DisconnectReasonCode, words: Option<String>) -> Ending {
    let words = words.map(|words| format!(" ({words})")).unwrap_or_default();
    match code {
        DisconnectReasonCode::SessionTakenOver => {
            Ending::Refused(format!("another client uses our `client_id`{words}; every link needs its own"))
        }
        DisconnectReasonCode::NotAuthorized => Ending::Refused(format!("{}{words}", super::NOT_ALLOWED)),
        code => Ending::Broken(format!("the broker ended it: {code:?}{words}")),
    }
}
