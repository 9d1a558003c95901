//! The dialect of MQTT 3.1.1 (OASIS, 29 October 2014).

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event as Spoken, EventLoop, MqttOptions, Outgoing,
    Packet, Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode, Transport, mqttbytes,
};

use super::{Ending, Event, Filter, Message, Terms, Ticket};
use crate::boot_time::BootTime;

pub(super) fn open(terms: &Terms, transport: Transport) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(&terms.client_id, &terms.host, terms.port);
    let taken_in = terms.max_packet.saturating_mul(super::OVERSIZE).min(super::LARGEST);
    options
        .set_transport(transport)
        .set_keep_alive(super::whole_keep_alive(terms.keep_alive))
        .set_clean_session(!terms.persistent)
        .set_manual_acks(true)
        .set_max_packet_size(taken_in, super::LARGEST)
        // We publish nothing; one subscription at a time needs one identifier.
        .set_inflight(1);
    if let Some((name, password)) = &terms.user {
        options.set_credentials(name, password.reveal());
    }
    let (client, mut events) = AsyncClient::new(options, super::REQUESTS);
    events.set_network_options(super::network(terms));
    (client, events)
}

pub(super) fn filter(filter: &Filter) -> SubscribeFilter {
    let qos = if filter.at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce };
    SubscribeFilter::new(filter.path.clone(), qos)
}

/// As much of a publish as its acknowledgement needs.
pub(super) fn receipt(ticket: Ticket) -> Publish {
    let qos = if ticket.exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    let mut publish = Publish::new("", qos, "");
    publish.pkid = ticket.packet_id;
    publish
}

pub(super) fn event(spoken: Spoken) -> Event {
    match spoken {
        Spoken::Incoming(Packet::ConnAck(_)) => Event::Accepted,
        Spoken::Incoming(Packet::SubAck(answer)) => {
            let refusal = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(_) => None,
                SubscribeReasonCode::Failure => Some("the broker gives no reason; may we read it?".into()),
            };
            Event::Granted(answer.return_codes.into_iter().map(refusal).collect())
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
        payload: super::own(&publish.payload),
        topic: publish.topic,
        retained: publish.retain,
        arrived: BootTime::now(),
        ticket,
    }
}

pub(super) fn ending(error: ConnectionError) -> Ending {
    match error {
        ConnectionError::ConnectionRefused(code) => refusal(code),
        ConnectionError::NotConnAck(_) => Ending::Mismatch(super::NOT_MQTT.into()),
        ConnectionError::Tls(error) => super::ending_of_tls_set_up(&error),
        ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(mqttbytes::Error::Io(error)),
        ) => super::ending_of_io(&error),
        ConnectionError::MqttState(StateError::Deserialization(
            mqttbytes::Error::PayloadSizeLimitExceeded(size),
        )) => Ending::Oversized(size),
        ConnectionError::MqttState(StateError::Deserialization(
            mqttbytes::Error::InvalidConnectReturnCode(_) | mqttbytes::Error::InvalidPacketType(_),
        )) => Ending::Mismatch(super::NOT_MQTT.into()),
        ConnectionError::MqttState(StateError::ConnectionAborted) => Ending::Closed,
        ConnectionError::MqttState(StateError::AwaitPingResp) => Ending::Broken(super::PING.into()),
        other => Ending::Broken(other.to_string()),
    }
}

fn refusal(code: ConnectReturnCode) -> Ending {
    match code {
        ConnectReturnCode::Success | ConnectReturnCode::ServiceUnavailable => {
            Ending::Broken("the broker says that its service is unavailable".into())
        }
        ConnectReturnCode::RefusedProtocolVersion => {
            Ending::Refused("it does not speak MQTT 3.1.1; set `version = \"5\"`".into())
        }
        ConnectReturnCode::BadClientId => Ending::Refused(super::CLIENT_ID.into()),
        ConnectReturnCode::BadUserNamePassword => Ending::Refused(super::PASSWORD.into()),
        ConnectReturnCode::NotAuthorized => Ending::Refused(super::NOT_ALLOWED.into()),
    }
}
