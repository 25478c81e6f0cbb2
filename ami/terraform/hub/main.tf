# The hub: one instance, replaced by its Auto Scaling group when it fails, that always
# has the same interface, private and public address and key. So no route and no spoke
# has to change when another instance takes its place. With `hubs` 2 there is a second such
# hub beside it, with an interface, address, role and key of its own. Whom it serves:
# ../../DEPLOY.md.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_caller_identity" "this" {}
data "aws_subnet" "this" {
  id = var.public_subnet_id
}
data "aws_vpc" "this" {
  id = data.aws_subnet.this.vpc_id
}

# The second hub's subnet, and what it must have of its own.
data "aws_subnet" "second" {
  count = var.hubs - 1
  id    = var.second_public_subnet_id
  lifecycle {
    precondition {
      condition     = var.second_public_subnet_id != ""
      error_message = "second_public_subnet_id is needed with two hubs."
    }
    precondition {
      condition     = var.second_hub_key_parameter != var.hub_key_parameter
      error_message = "second_hub_key_parameter is the first hub's key."
    }
    postcondition {
      condition     = self.vpc_id == data.aws_subnet.this.vpc_id
      error_message = "second_public_subnet_id is in another VPC: a hub there is a module of its own."
    }
    postcondition {
      condition     = self.availability_zone != data.aws_subnet.this.availability_zone
      error_message = "second_public_subnet_id is in the first hub's zone: both would fail with it."
    }
  }
}

locals {
  subnets = concat([data.aws_subnet.this], data.aws_subnet.second)
}

# Of each hub: they differ in the key alone.
module "documents" {
  count                  = var.hubs
  source                 = "../documents"
  role                   = "hub"
  partition              = data.aws_partition.this.partition
  account                = data.aws_caller_identity.this.account_id
  region                 = data.aws_region.this.id
  privnet                = var.privnet
  service_tag            = var.service_tag
  environment_tag        = var.environment_tag
  fleet_secret_parameter = var.fleet_secret_parameter
  hub_key_parameter      = [var.hub_key_parameter, var.second_hub_key_parameter][count.index]
  site_secret_parameters = var.site_secret_parameters
  regions                = var.regions
  proof                  = var.proof
  discovery_roles        = var.discovery_roles
  more_config            = var.more_config
}

module "instance" {
  count             = var.hubs
  source            = "./instance"
  name              = [var.name, "${var.name}-2"][count.index]
  region            = data.aws_region.this.id
  image_id          = var.image_id
  instance_type     = var.instance_type
  subnet_id         = local.subnets[count.index].id
  zone              = local.subnets[count.index].availability_zone
  security_group_id = aws_security_group.this.id
  documents         = module.documents[count.index]
  alarm_topic_arn   = var.alarm_topic_arn
}

resource "aws_security_group" "this" {
  name_prefix = "privnet-hub-${var.name}-"
  description = "privnet hub ${var.name}"
  vpc_id      = data.aws_vpc.this.id
  tags        = { Name = "privnet-hub-${var.name}" }
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "tunnels" {
  for_each          = toset(var.tunnel_sources)
  security_group_id = aws_security_group.this.id
  description       = "tunnels"
  ip_protocol       = "udp"
  from_port         = 51820
  to_port           = 51820
  cidr_ipv4         = each.value
}

# IKE, and IKE and ESP as there is a NAT.
resource "aws_vpc_security_group_ingress_rule" "ipsec" {
  for_each          = { for pair in setproduct(var.ipsec_sources, [500, 4500]) : "${pair[0]} ${pair[1]}" => pair }
  security_group_id = aws_security_group.this.id
  description       = "IPsec"
  ip_protocol       = "udp"
  from_port         = each.value[1]
  to_port           = each.value[1]
  cidr_ipv4         = each.value[0]
}

resource "aws_vpc_security_group_ingress_rule" "vpc" {
  security_group_id = aws_security_group.this.id
  description       = "what the VPC's hosts send to the privnet"
  ip_protocol       = "-1"
  cidr_ipv4         = data.aws_vpc.this.cidr_block
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.this.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

# To the first hub: a table has one route to the privnet.
resource "aws_route" "privnet" {
  count                  = length(var.private_route_table_ids)
  route_table_id         = var.private_route_table_ids[count.index]
  destination_cidr_block = var.privnet
  network_interface_id   = module.instance[0].interface
}
