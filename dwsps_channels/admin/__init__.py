"""The pages of peers, of durable messages and of topic rules in Django's admin."""

from dwsps_channels.admin.durable import DurableMessageAdmin
from dwsps_channels.admin.peers import PeerAdmin
from dwsps_channels.admin.topic_rules import TopicRuleAdmin

__all__ = ["DurableMessageAdmin", "PeerAdmin", "TopicRuleAdmin"]
